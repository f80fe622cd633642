"""Typed queries over what was published: one answer for command line, desk and bot.

Everything here only reads. What does not belong: rendering (``cli``, ``plugins``), computing
numbers (``domain``), and deciding what runs (``pipelines``).
"""
