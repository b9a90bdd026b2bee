"""The broker: a pure routing core and a thin server around it; runs as a process of its own."""
