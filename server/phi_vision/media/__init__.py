"""Pictures of strangers: fetched, bounded, and decoded in processes that may die."""
