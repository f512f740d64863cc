"""The value objects that travel between services, server, client and command line.

One definition for each resource: a service returns it, the server sends it as JSON, the client reads it back. Records
know nothing of databases, processes or HTTP.
"""
