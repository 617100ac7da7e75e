"""Control loops and their order. They use ports only and name no peer."""
