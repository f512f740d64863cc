"""How records and the events of jobs look to a person: Rich renderings for the command line and the quickstart."""
