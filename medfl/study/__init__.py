"""Many runs compared: methods x seeds x partitions, optionally with every training site in turn as the unseen one."""
