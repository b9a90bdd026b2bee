"""The text index of a collection: tantivy, derived from the documents and built anew at need."""
