"""How the shipped recipes' sections become an objective, a source of batches and an export."""
