"""Adapters: files of every dialect read into one form, blended at run time or into one file."""
