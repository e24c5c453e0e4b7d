// A pool of threads that sleep until there is work, and memory that each keeps between calls.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

namespace vaec {

// Calls work(context, n) for n from 0 to count - 1, in any order, on the calling thread and up to threads - 1 others.
// If the pool is busy with the work of another caller, the calling thread does everything.
void run_parallel(size_t count, size_t threads, void (*work)(void*, size_t), void* context);

template <class Work>
void parallel(size_t count, size_t threads, const Work& work) {
    run_parallel(
        count, threads, [](void* context, size_t n) { (*static_cast<const Work*>(context))(n); },
        const_cast<void*>(static_cast<const void*>(&work)));
}

// Memory for the duration of a scope, from blocks that the thread keeps, with padding for one more vector.
class Scratch {
  public:
    Scratch() : mark_(stack().top) {}
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    template <class T>
    T* take(size_t count) {
        return static_cast<T*>(take_bytes(count * sizeof(T)));
    }

  private:
    struct Block {
        char* data;
        size_t size;
    };
    struct Mark {
        size_t block, used;
    };
    struct Stack {
        std::vector<Block> blocks;
        Mark top{0, 0};
        ~Stack();
    };
    static Stack& stack();
    void* take_bytes(size_t bytes);
    Mark mark_;
};

}  // namespace vaec
