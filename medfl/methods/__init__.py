"""Methods of federated learning: `core` holds methods and chains, every other module one paper's method."""
