"""What is made from code, so that it cannot drift: `make generate` writes it, `make check` compares."""
