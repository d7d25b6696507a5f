"""Quality metrics: extraction, distances, and the protocol that every value carries."""
