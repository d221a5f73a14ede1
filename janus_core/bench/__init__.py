"""The commands that measure: `bench` (speed, loading, the jacobi sampler) and `dtypes` (memory, fidelity)."""
