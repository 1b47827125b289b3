"""The shared cache over HTTP: an ASGI application, and what runs it."""

from symcache.server.app import App, Listening, hash_password, hash_token, listen, make_server, serve

__all__ = ["App", "Listening", "hash_password", "hash_token", "listen", "make_server", "serve"]
