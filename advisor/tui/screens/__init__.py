"""One file per screen, its style beside it; a screen is imported when it is first opened."""
