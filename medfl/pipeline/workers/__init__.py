"""Sites of a round side by side, in processes of this machine."""
