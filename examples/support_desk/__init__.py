"""A support desk: one LangChain agent, a real SQLite shop, and the same talks with and without a cache."""
