"""What the phases share, one noun a file. Nothing here imports a phase script."""
