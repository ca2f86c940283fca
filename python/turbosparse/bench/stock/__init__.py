"""The baseline's own process: stock libllama through llama_cpp, without our library."""
