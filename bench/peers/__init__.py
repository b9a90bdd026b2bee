"""What the mesh is measured against: each peer as its own users would write it."""
