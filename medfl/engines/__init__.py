"""Engines that reach sites in processes of their own. Only this room knows NVIDIA FLARE (the extra `nvflare`)."""
