//! What LLM answers say about themselves.
