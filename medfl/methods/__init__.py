"""The methods: `base` holds links and chains, every other module one paper."""
