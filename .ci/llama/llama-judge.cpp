// What llama.cpp makes of prompts: the logits of given answers, or the time of its vision tower.
//
//     llama-judge logits MODEL MMPROJ JOBS OUT    a job a line; OUT: rows of f32 [vocabulary], one a forced token
//     llama-judge encode MODEL MMPROJ SIDE RUNS   a picture of SIDE x SIDE; prints ms of each run
//
// A job is six fields parted by tabs: tokens before the picture, its file of raw RGB (`-`: there is none), its width and
// height in pixels, tokens behind it, and the forced answer. Row i of a job stands where token i of the answer is chosen.
// Prompts come as tokens, so that both programs read the same.

#include "ggml-backend.h"
#include "llama.h"
#include "mtmd-helper.h"
#include "mtmd.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using Tokens = std::vector<llama_token>;

static void must(bool good, const std::string & what) {
    if (!good) {
        throw std::runtime_error(what);
    }
}

static Tokens tokens_of(const std::string & field) {
    std::istringstream in(field);
    return Tokens(std::istream_iterator<llama_token>(in), {});
}

struct Judge {
    llama_model * model;
    llama_context * context;
    mtmd_context * vision = nullptr;
    llama_pos filled = 0;

    Judge(const char * text, const char * mmproj, bool is_repacked) {
        const int threads = std::thread::hardware_concurrency();
        llama_model_params of_model = llama_model_default_params();
        of_model.use_extra_bufts = is_repacked;
        model = llama_model_load_from_file(text, of_model);
        must(model, std::string("model ") + text);
        llama_context_params of_context = llama_context_default_params();
        of_context.n_ctx = 4096;
        of_context.n_batch = 2048;
        of_context.n_threads = of_context.n_threads_batch = threads;
        if (getenv("JUDGE_KV_F32")) {
            of_context.type_k = of_context.type_v = GGML_TYPE_F32;
        }
        context = llama_init_from_model(model, of_context);
        must(context, "context");
        mtmd_context_params of_vision = mtmd_context_params_default();
        of_vision.use_gpu = false;
        of_vision.print_timings = false;
        of_vision.n_threads = threads;
        vision = mtmd_init_from_file(mmproj, model, of_vision);
        must(vision, std::string("mmproj ") + mmproj);
    }

    ~Judge() {
        mtmd_free(vision);
        llama_free(context);
        llama_model_free(model);
    }

    int vocabulary() const { return llama_vocab_n_tokens(llama_model_get_vocab(model)); }

    void start() {
        llama_memory_clear(llama_get_memory(context), true);
        filled = 0;
    }

    // Gives the model text; the logits are those behind its last token.
    void read(const Tokens & ids) {
        if (ids.empty()) {
            return;
        }
        llama_batch batch = llama_batch_init(ids.size(), 0, 1);
        batch.n_tokens = ids.size();
        for (size_t i = 0; i < ids.size(); i++) {
            batch.token[i] = ids[i];
            batch.pos[i] = filled++;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = i + 1 == ids.size();
        }
        const int failed = llama_decode(context, batch);
        llama_batch_free(batch);
        must(!failed, "decode");
    }

    // Calls `use` with the chunk of a picture alone, without the tokens that llama.cpp puts around it.
    template <typename Use> void with_picture(const std::vector<unsigned char> & rgb, int width, int height, Use use) {
        must(rgb.size() == size_t(width) * height * 3, "bytes of a picture");
        mtmd_bitmap * bitmap = mtmd_bitmap_init(width, height, rgb.data());
        mtmd_input_part part = {nullptr, bitmap};
        const mtmd_input_part * parts[] = {&part};
        mtmd_input_chunks * chunks = mtmd_input_chunks_init();
        must(!mtmd_tokenize_from_parts(vision, chunks, parts, 1, false), "picture");
        for (size_t i = 0; i < mtmd_input_chunks_size(chunks); i++) {
            const mtmd_input_chunk * chunk = mtmd_input_chunks_get(chunks, i);
            if (mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_IMAGE) {
                use(chunk);
            }
        }
        mtmd_input_chunks_free(chunks);
        mtmd_bitmap_free(bitmap);
    }

    void see(const std::vector<unsigned char> & rgb, int width, int height) {
        with_picture(rgb, width, height, [&](const mtmd_input_chunk * chunk) {
            must(!mtmd_helper_eval_chunk_single(vision, context, chunk, filled, 0, 2048, false, &filled), "picture's rows");
        });
    }

    void encode(const std::vector<unsigned char> & rgb, int side) {
        with_picture(rgb, side, side,
                     [&](const mtmd_input_chunk * chunk) { must(!mtmd_encode_chunk(vision, chunk), "encode"); });
    }
};

static std::vector<unsigned char> bytes_of(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    must(file.good(), "cannot read " + path);
    return std::vector<unsigned char>(std::istreambuf_iterator<char>(file), {});
}

static void logits(Judge & judge, const char * jobs, const char * out) {
    std::ifstream lines(jobs);
    std::ofstream rows(out, std::ios::binary);
    std::string line;
    while (std::getline(lines, line)) {
        std::vector<std::string> fields;
        std::istringstream in(line);
        for (std::string field; std::getline(in, field, '\t');) {
            fields.push_back(field);
        }
        must(fields.size() == 6, "six fields expected: " + line);
        judge.start();
        judge.read(tokens_of(fields[0]));
        if (fields[1] != "-") {
            judge.see(bytes_of(fields[1]), std::stoi(fields[2]), std::stoi(fields[3]));
        }
        judge.read(tokens_of(fields[4]));
        for (llama_token id : tokens_of(fields[5])) {
            const float * row = llama_get_logits_ith(judge.context, -1);
            rows.write(reinterpret_cast<const char *>(row), sizeof(float) * judge.vocabulary());
            judge.read({id});
        }
    }
    must(rows.good(), std::string("cannot write ") + out);
}

static void encode(Judge & judge, int side, int runs) {
    std::vector<unsigned char> rgb(size_t(side) * side * 3);
    for (size_t i = 0; i < rgb.size(); i++) {
        rgb[i] = i * 7919 % 251;
    }
    judge.encode(rgb, side);
    for (int run = 0; run < runs; run++) {
        const auto started = std::chrono::steady_clock::now();
        judge.encode(rgb, side);
        const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - started;
        printf("%.1f\n", time.count());
    }
}

int main(int count, char ** words) try {
    const std::string what = count > 1 ? words[1] : "";
    must(count == 6 && (what == "logits" || what == "encode"), "llama-judge logits|encode MODEL MMPROJ ...");
    ggml_backend_load_all();
    // The tower alone is timed: the text model's weights need not be brought into another order.
    Judge judge(words[2], words[3], what == "logits");
    if (what == "logits") {
        logits(judge, words[4], words[5]);
    } else {
        encode(judge, std::stoi(words[4]), std::stoi(words[5]));
    }
    return 0;
} catch (const std::exception & e) {
    fprintf(stderr, "llama-judge: %s\n", e.what());
    return 1;
}
