"""Patches: where they come from, which site holds them, how they look there, and how they reach the device."""
