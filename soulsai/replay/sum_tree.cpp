// The tree of soulsai/replay/sum_tree.py in machine code. Each level lies behind the one below it,
// in blocks of FAN numbers; a number is the sum of one block of the level below.

#include <cstdint>

constexpr int64_t FAN = 16;  // as in sum_tree.py; a block is two cache lines

namespace {

double sum(const double *block) {
    double total = 0.0;
    for (int64_t i = 0; i < FAN; i++) total += block[i];
    return total;
}

}  // namespace

extern "C" {

// Set leaves and the sums above them. `step` is 1, or 0 if all leaves get the first value.
void set(double *nodes, const int64_t *firsts, int64_t levels, const int64_t *indices,
         const double *values, int64_t step, int64_t count) {
    for (int64_t i = 0; i < count; i++) nodes[indices[i]] = values[i * step];
    int64_t width = FAN;  // leaves under one block
    for (int64_t level = 1; level < levels; level++, width *= FAN) {
        const double *below = nodes + firsts[level - 1];
        double *above = nodes + firsts[level];
        int64_t before = -1;
        for (int64_t i = 0; i < count; i++) {
            const int64_t block = indices[i] / width;
            if (block != before) above[block] = sum(below + block * FAN);
            before = block;
        }
    }
}

// Find the leaf at which the running sum first exceeds each depth. A depth beyond the last sum, by
// rounding, leads to the last leaf that is not zero.
void find(const double *nodes, const int64_t *firsts, int64_t levels, const double *depths,
          int64_t count, int64_t *found) {
    for (int64_t i = 0; i < count; i++) {
        double depth = depths[i];
        int64_t node = 0;
        for (int64_t level = levels - 1; level >= 0; level--) {
            const double *block = nodes + firsts[level] + node * FAN;
            double running = 0.0, before = 0.0;
            int64_t child = 0;
            for (int64_t j = 0; j < FAN; j++) {
                if (block[j] <= 0.0) continue;
                child = j;
                before = running;
                running += block[j];
                if (running > depth) break;
            }
            depth -= before;
            node = node * FAN + child;
        }
        found[i] = node;
    }
}

}  // extern "C"
