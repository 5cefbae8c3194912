"""What a device needs before anything runs there: runtimes in an environment of their own."""
