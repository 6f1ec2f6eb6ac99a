"""The side that faces the engines: kept-alive HTTP/1.1 connections over TCP, TLS or a Unix socket."""
