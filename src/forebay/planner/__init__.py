"""What a model needs, and on which GPUs it runs well: computed before anything is downloaded or started.

Pure, but for `source.py`, which finds a model's config.json.
"""
