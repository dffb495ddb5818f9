"""Running compiled files: sessions, feeds, explanations and figures. Needs the file alone, not the compiler."""
