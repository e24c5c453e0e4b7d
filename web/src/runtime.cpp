// What the core needs of a C++ runtime in WebAssembly and does not find there: errors end the instance, which JavaScript
// then replaces by a new one.
#include <cstddef>

extern "C" {
void* __cxa_allocate_exception(size_t) { __builtin_trap(); }
[[noreturn]] void __cxa_throw(void*, void*, void (*)(void*)) { __builtin_trap(); }
int __cxa_thread_atexit(void (*)(void*), void*, void*) { return 0; }  // the only thread ends with the instance
}
