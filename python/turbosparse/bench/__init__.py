"""Benchmarks of the engine, alone and against stock llama.cpp, in llama-bench's schema."""
