"""The shared cache over HTTP: an ASGI application, and what runs it."""

from symcache.server.app import App, hash_password, hash_token
from symcache.server.run import Listening, listen, make_server, serve

__all__ = ["App", "Listening", "hash_password", "hash_token", "listen", "make_server", "serve"]
