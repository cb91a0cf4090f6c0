"""The methods: `base` holds methods and chains, every other module one paper."""
