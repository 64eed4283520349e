#include "hex_arrays.hpp"

#include "layout.hpp"

namespace ptx {
namespace {

using layout::Inputs;
using layout::Launch;
using layout::Matrix;
using layout::Parameters;
using layout::Side;

struct Collector {
    GlobalMemory memory;
    std::map<u64, Written>& written;
    i64 element;  // bytes of an operand's number
    i64 padded_dims;

    void input(const void* at, i64 bytes, const std::string& name) { memory.add_input(at, bytes, name); }
    void output(const void* at, i64 bytes, const std::string& name) {
        Written& history = written[(u64)at];
        if (!history) history = std::make_shared<std::vector<u8>>();
        memory.add_output(at, bytes, name, history);
    }
    void matrix(const Matrix& m, i64 rows, i64 dims, const std::string& name) {
        if (rows > 0) input(m.pointer, ((rows - 1) * m.row_stride + (dims - 1) * m.dim_stride + 1) * element, name);
    }
    void side(const Side& s, const std::string& name) {
        output(s.rows, s.padded * padded_dims * element, name + ".rows");
        output(s.cards, s.padded * (i64)sizeof(layout::Card), name + ".cards");
        output(s.splits, s.padded * (i64)sizeof(layout::Split), name + ".splits");
        output(s.lengths, s.count * 8, name + ".lengths");
    }
};

void add_matrices(Collector& to, const Parameters& p, const Inputs& inputs) {
    for (int view = 0; view < MAX_VIEWS; view++) {
        to.matrix(inputs.views[view], p.view_rows, p.dims, "views[" + std::to_string(view) + "]");
    }
    if (!p.square) to.matrix(inputs.keys, p.keys.count, p.dims, "keys");
    to.matrix(inputs.positives, p.apart.count, p.dims, "positives");
}

void add_inputs(Collector& to, const Parameters& p) {
    const i64 anchors = p.anchors.count, keys = p.keys.count;
    to.input(p.positive_index, anchors * p.positives * 8, "positive_index");
    const i64 ignored = p.excluded - (p.pairing == layout::INDEXED ? p.positives : 0);
    to.input(p.ignored_index, anchors * ignored * 8, "ignored_index");
    to.input(p.anchor_labels, anchors * 8, "anchor_labels");
    to.input(p.key_labels, keys * 8, "key_labels");
    const int scalar_bytes[] = {2, 2, 4, 8};
    to.input(p.epsilon, scalar_bytes[p.epsilon_scalar], "epsilon");
    to.input(p.given_temperature, scalar_bytes[p.temperature_scalar], "given_temperature");
    to.input(p.anchor_weights, anchors * 4, "anchor_weights");
}

void add_scratch(Collector& to, const Parameters& p) {
    const i64 anchors = p.anchors.count, keys = p.keys.count, pairs = anchors * p.positives;
    to.output(p.header, sizeof(layout::Header), "header");
    const auto tiles = [&](const layout::Tiles& t, const Side& s, const std::string& name) {
        constexpr i64 NOTES = 5;
        to.output(t.rows, s.padded * to.padded_dims * to.element, name + ".rows");
        to.output(t.notes, s.padded * NOTES * 4, name + ".notes");
    };
    if (p.anchor_tiles.rows) tiles(p.anchor_tiles, p.anchors, "anchor_tiles");
    if (p.key_tiles.rows && !p.square) tiles(p.key_tiles, p.keys, "key_tiles");
    to.side(p.anchors, "anchors");
    if (!p.square) to.side(p.keys, "keys");
    if (p.apart.count > 0) to.side(p.apart, "apart");
    to.output(p.quantiles, anchors * 4, "quantiles");
    to.output(p.lows, anchors * 4, "lows");
    to.output(p.highs, anchors * 4, "highs");
    to.output(p.above, anchors * 4, "above");
    to.output(p.inside, anchors * 4, "inside");
    to.output(p.failed, anchors * 4, "failed");
    to.output(p.excluded_keys, anchors * p.excluded * 4, "excluded_keys");
    to.output(p.key_ends, keys * 4, "key_ends");
    to.output(p.key_pairs, anchors * p.excluded * 4, "key_pairs");
    to.output(p.ranges, anchors * 2 * 4, "ranges");
    to.output(p.pending_at, anchors * 2 * 4, "pending_at");
    to.output(p.positive_similarities, pairs * 4, "positive_similarities");
    to.output(p.positive_slopes, pairs * 4, "positive_slopes");
    to.output(p.apart_similarities, anchors * p.rows_apart * 4, "apart_similarities");
    to.output(p.own_sums, anchors * SUMS * 4, "own_sums");
    to.output(p.radials, (anchors + WARPS - 1) / WARPS * 8, "radials");
}

// What finds the threshold, the sums but for those of the first part, and the partial gradients take turns in the same
// memory.
void add_shared_scratch(Collector& to, const std::string& kernel, const Parameters& p, const Launch& l) {
    const bool joint = kernel.starts_with("sift") || kernel == "gather";
    if (kernel == "total_similarity") to.output(p.row_sums, (i64)l.splits * (p.square ? 1 : 2) * to.padded_dims * 8, "row_sums");
    if (kernel == "anchors") to.output(p.totals, (p.anchors.count + l.rows - 1) / l.rows * TOTALS * 8, "totals");
    if (kernel.starts_with("survivors") || kernel == "pick" || joint) {
        to.output(p.survivors, (i64)l.rows * p.capacity * 4, "survivors");
    }
    if (kernel == "select_failed" || kernel == "select_wgmma") {
        // What was in the brackets is of no use any more.
        to.written.erase((u64)p.survivors);
        const i64 groups = ((p.tower ? p.tower : p.keys.count) + p.rows_apart + 3) / 4;
        to.output(p.survivors, l.rows * groups * 16, "survivors");
    }
    const i64 part_of_sums = (i64)p.anchors.padded * SUMS * 4;
    if (kernel == "gather" || kernel == "settle") {
        to.output(p.pending, (i64)p.pending_capacity * 4, "pending");
        to.output(p.sums, part_of_sums, "sums");
    }
    if (kernel.starts_with("sums") || kernel == "anchors") to.output(p.sums, p.splits * part_of_sums, "sums");
    if (joint) to.output(p.parts, (i64)l.splits * l.rows * 2 * 4, "parts");
    const bool gradient = kernel.starts_with("gradient");
    if (!gradient && kernel != "finish") return;
    if (gradient) to.written.erase((u64)l.gradient), to.written.erase((u64)l.partial);
    // Without other parts the sums stand where the gradient will.
    if (l.splits > 0 && l.partial != l.gradient) {
        to.output(l.partial, l.splits * l.partial_rows * l.partial_dims * 4, "partial");
    }
    const i64 rows = l.side == 2 ? p.apart.count : l.side == 1 ? p.keys.count : p.anchors.count;
    to.output(l.gradient, rows * p.dims * 4, "gradient");
}

}  // namespace

GlobalMemory HexArrays::of(const Program& program, const std::string& operand, u32 dims, void* const* arguments) {
    const auto& told = program.parameters;
    // An evaluation begins with `rows`.
    const bool first = program.name == "rows";
    if (told.size() != 2 || told[0].bytes != sizeof(Parameters) || told[1].bytes != (first ? sizeof(Inputs) : sizeof(Launch))) {
        fault("the kernel ", program.name, " is told other structures than those of parameters.cu");
    }
    const Parameters& p = *(const Parameters*)arguments[0];
    if (first) written_.clear();
    Collector to{.written = written_, .element = operand.ends_with("TF32") ? 4 : 2, .padded_dims = (i64)dims};
    add_inputs(to, p);
    if (program.name == "copy_quantiles") {
        to.output(((const Launch*)arguments[1])->output, p.anchors.count * 4, "output");
    } else {
        to.output(p.loss, p.one_loss ? 4 : p.anchors.count * 4, "loss");
        to.output(p.statistics, 6 * 4, "statistics");
        to.output(p.temperature_gradient, 4, "temperature_gradient");
    }
    add_scratch(to, p);
    if (first) add_matrices(to, p, *(const Inputs*)arguments[1]);
    else add_shared_scratch(to, program.name, p, *(const Launch*)arguments[1]);
    return std::move(to.memory);
}

}  // namespace ptx
