"""What image restoration measures and shows, whatever the application."""
