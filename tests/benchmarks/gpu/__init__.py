"""What one CUDA card makes of every family: `make gpu-check`."""
