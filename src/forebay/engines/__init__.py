"""Engines we own: vLLM processes started, watched, restarted and ended by this one."""
