"""The settings, one file a group; `config/settings.py` makes one model of them."""
