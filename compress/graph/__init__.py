"""What a network computes, as data: traced operations, their cost, channels that belong together."""
