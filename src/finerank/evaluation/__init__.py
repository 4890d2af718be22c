"""Metrics, significance, reports."""
