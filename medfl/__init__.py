"""Federated pathology: one model, many hospitals, no image moved."""
