"""The storage service: durable records and objects in buckets."""
