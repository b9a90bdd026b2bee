"""What a running process tells of itself: figures, and whether it lives and is ready.

histogram   durations counted by size, cheap enough for every call
families    what a broker or a worker knows -> families of Prometheus
http        GET /health /ready /metrics /status
together    the same four for several processes, each asked at its own socket
"""
