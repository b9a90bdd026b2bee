# Types for the compiled form of the module beside this file; docs/architecture.md, "Compiled and plain".
cpdef bytes check_key(key, str what=*)
cpdef bytes utf8(str text, str what)
