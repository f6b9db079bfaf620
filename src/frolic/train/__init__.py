"""Training: one trainer that knows no model, objectives as plug-ins, recipes as data."""
