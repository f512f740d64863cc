"""Assets: how they are named, registered, found, described and removed."""
