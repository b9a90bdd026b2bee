"""The built-in services, and the store that they share. They import `mesh`, never `broker`."""
