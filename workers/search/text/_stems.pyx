# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The words of ASCII texts as stems, looked up in a table of its own.

It does for these texts what `workers.search.text.stems.Plain` does for all. Texts have few
different words: each is stemmed once and then found by its letters, without an object for any of
the words. For one thread at a time.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    void* PyUnicode_1BYTE_DATA(object text)
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

ctypedef unsigned char octet
ctypedef unsigned int u32


cdef struct Entry:
    u32 hash
    u32 at        # where the word lies, and behind it its stem
    u32 seen      # the number of the last text that had it
    unsigned short size
    unsigned short stem


cdef octet _lower[128]  # 0 for what is between words
for _code in range(128):
    _lower[_code] = ord(chr(_code).lower()) if chr(_code).isalnum() else 0


cdef class Table:
    """`stem` gives the stem of a word in small letters; `longest` is the size of words left out."""

    cdef object _stem
    cdef u32 _longest
    cdef u32 _most
    cdef Entry* _entries
    cdef u32 _mask
    cdef u32 _count
    cdef octet* _letters
    cdef u32 _room
    cdef u32 _end
    cdef u32 _text
    cdef octet* _out
    cdef Py_ssize_t _out_room

    def __cinit__(self, stem, u32 longest, u32 most):
        self._stem = stem
        self._longest = longest
        self._most = most
        self._reset()

    def __dealloc__(self):
        PyMem_Free(self._entries)
        PyMem_Free(self._letters)
        PyMem_Free(self._out)

    cdef _reset(self):
        """Forget all words."""
        cdef Entry* entries = <Entry*>PyMem_Calloc(1024, sizeof(Entry))
        if not entries:
            raise MemoryError
        PyMem_Free(self._entries)
        self._entries = entries
        self._mask, self._count, self._end, self._text = 1023, 0, 0, 0

    def columns(self, str text not None):
        """The stems of a text, in its order, and its different words; None if it is not ASCII."""
        if not PyUnicode_IS_ASCII(text):
            return None
        cdef const octet* at = <const octet*>PyUnicode_1BYTE_DATA(text)
        cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text)
        # A stem is at most twice as long as its word (see `_learn`), and a space follows each.
        cdef Py_ssize_t most = 2 * length + 2
        if 2 * most > self._out_room:
            PyMem_Free(self._out)
            self._out_room = 0
            self._out = <octet*>PyMem_Malloc(2 * most)
            if not self._out:
                raise MemoryError
            self._out_room = 2 * most
        cdef octet* stems = self._out
        cdef octet* words = self._out + most
        cdef Py_ssize_t i = 0, k
        cdef u32 hash, size
        cdef octet letter
        cdef octet word[256]
        cdef Entry* entry
        self._text += 1
        if self._count >= self._most or self._text == 0:
            self._reset()
            self._text = 1
        while i < length:
            letter = _lower[at[i]]
            if not letter:
                i += 1
                continue
            hash, size = 2166136261u, 0
            while letter:
                if size < 256:
                    word[size] = letter
                size += 1
                hash = (hash ^ letter) * 16777619u
                i += 1
                letter = _lower[at[i]] if i < length else 0
            if size >= self._longest:  # it takes its place, and the analyzer leaves it out
                memcpy(stems, at + i - size, size)
                stems += size
            else:
                entry = self._find(hash, word, size)
                memcpy(stems, self._letters + entry.at + size, entry.stem)
                stems += entry.stem
                if entry.seen != self._text:
                    entry.seen = self._text
                    memcpy(words, word, size)
                    words[size] = 32
                    words += size + 1
            stems[0] = 32
            stems += 1
        return (
            PyUnicode_DecodeASCII(<const char*>self._out, stems - self._out, NULL),
            PyUnicode_DecodeASCII(
                <const char*>(self._out + most), words - (self._out + most), NULL
            ),
        )

    cdef Entry* _find(self, u32 hash, const octet* word, u32 size) except NULL:
        cdef u32 slot = (hash ^ (hash >> 15)) & self._mask
        cdef Entry* entry
        while True:
            entry = self._entries + slot
            if not entry.size:
                return self._learn(hash, word, size)
            if entry.hash == hash and entry.size == size and not memcmp(
                self._letters + entry.at, word, size
            ):
                return entry
            slot = (slot + 1) & self._mask

    cdef Entry* _learn(self, u32 hash, const octet* word, u32 size) except NULL:
        """Enter a word."""
        cdef bytes stem = self._stem((<const char*>word)[:size].decode("ascii")).encode("ascii")
        cdef u32 stem_size = <u32>len(stem)
        if stem_size > 2 * size:  # no stem is: there would be no room for it
            raise ValueError(f"the stem {stem!r} is twice as long as its word")
        if 2 * (self._count + 1) > self._mask:
            self._grow()
        cdef u32 room = self._end + size + stem_size
        if room > self._room:
            letters = <octet*>PyMem_Realloc(self._letters, 2 * room)
            if not letters:
                raise MemoryError
            self._letters, self._room = letters, 2 * room
        memcpy(self._letters + self._end, word, size)
        memcpy(self._letters + self._end + size, <const char*>stem, stem_size)
        cdef Entry* entry = self._free(hash)
        entry.hash, entry.at, entry.seen = hash, self._end, 0
        entry.size, entry.stem = size, stem_size
        self._end = room
        self._count += 1
        return entry

    cdef Entry* _free(self, u32 hash):
        cdef u32 slot = (hash ^ (hash >> 15)) & self._mask
        while self._entries[slot].size:
            slot = (slot + 1) & self._mask
        return self._entries + slot

    cdef int _grow(self) except -1:
        cdef Entry* old = self._entries
        cdef u32 count = self._mask + 1, i
        cdef Entry* entries = <Entry*>PyMem_Calloc(2 * count, sizeof(Entry))
        if not entries:
            raise MemoryError
        self._entries, self._mask = entries, 2 * count - 1
        for i in range(count):
            if old[i].size:
                self._free(old[i].hash)[0] = old[i]
        PyMem_Free(old)
        return 0
