# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cpdef bytes seal(bytes key, value)
cpdef bytes unseal(bytes key, sealed, str table=*)
