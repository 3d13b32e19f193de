// The layer pattern: every layer gets what the grammar says, every mistake is named with its element.
#include "pattern.h"
#include "test.h"

static void check_layer(LayerSpec spec, LayerKind kind, int window, int block, int topk) {
    CHECK(spec.kind == kind && spec.window == window && spec.block == block && spec.topk == topk,
          "layer is {kind %d, window %d, block %d, topk %d}, expected {%d, %d, %d, %d}",
          spec.kind, spec.window, spec.block, spec.topk, kind, window, block, topk);
}

TEST(pattern_repeats_its_cycle) {
    LayerSpec spec[5];
    Error err;
    CHECK(pattern_parse(spec, 5, "S256,M128:8", &err), "refused: %s", err.text);
    for (int l = 0; l < 5; l++) {
        if (l % 2 == 0) { check_layer(spec[l], LAYER_S, 256, 0, 0); } else { check_layer(spec[l], LAYER_M, 0, 128, 8); }
    }
}

TEST(pattern_as_long_as_the_model_sets_every_layer) {
    LayerSpec spec[4];
    Error err;
    CHECK(pattern_parse(spec, 4, "S,D,M512:2,S32", &err), "refused: %s", err.text);
    check_layer(spec[0], LAYER_S, 256, 0, 0);
    check_layer(spec[1], LAYER_D, WINDOW_ALL, 0, 0);
    check_layer(spec[2], LAYER_M, 0, 512, 2);
    check_layer(spec[3], LAYER_S, 32, 0, 0);
}

TEST(pattern_takes_its_limits) {
    const char* good[] = { "S1", "S1048576", "M8:1", "M65536:32", "D" };
    for (int i = 0; i < 5; i++) {
        LayerSpec spec[1];
        Error err = {0};
        CHECK(pattern_parse(spec, 1, good[i], &err), "'%s' refused: %s", good[i], err.text);
        char* text = pattern_text(spec, 1);
        CHECK_TEXT(text, good[i]);
        free(text);
    }
}

TEST(pattern_names_the_element_it_refuses) {
    const struct { const char *text, *expected; } bad[] = {
        { "", "element 1 is empty" }, { "S256,", "element 2 is empty" }, { ",S256", "element 1 is empty" }, { "S256,,D", "element 2 is empty" },
        { "S0", "element 1 'S0'" }, { "S1048577", "element 1 'S1048577'" }, { "S99999999999999999999", "[1, 1048576]" }, { "S-3", "element 1 'S-3'" },
        { "S256,M128", "element 2 'M128'" }, { "M", "element 1 'M'" }, { "M:8", "element 1 'M:8'" }, { "M128:", "element 1 'M128:'" },
        { "M7:2", "block in [8, 65536]" }, { "M65537:2", "element 1 'M65537:2'" }, { "M128:0", "topk in [1, 32]" }, { "M128:33", "element 1 'M128:33'" },
        { "M128:8x", "element 1 'M128:8x'" }, { "M128:8:1", "element 1" }, { "M4294967424:8", "element 1" },
        { "D1", "D stands alone" }, { "S256,X", "element 2 'X' is none of" }, { "s256", "element 1 's256'" }, { " S256", "element 1" },
        { "S256 ,D", "element 1" }, { "0x10", "element 1" }, { "nan", "element 1" }, { "S256;D", "element 1" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        LayerSpec spec[4];
        Error err = {0};
        CHECK(!pattern_parse(spec, 4, bad[i].text, &err), "'%s' was accepted", bad[i].text);
        CHECK(err.code == EXIT_USAGE && strstr(err.text, bad[i].expected) && strstr(err.text, "--pattern"),
              "'%s': the error is \"%s\", expected to contain \"%s\"", bad[i].text, err.text, bad[i].expected);
    }
}

TEST(pattern_longer_than_the_model_is_refused) {
    LayerSpec spec[2];
    Error err = {0};
    CHECK(!pattern_parse(spec, 2, "S,M128:8,D", &err), "three elements for two layers were accepted");
    CHECK(strstr(err.text, "element 3 'D' has no layer, the model has 2"), "the error is \"%s\"", err.text);
}

TEST(pattern_text_is_the_shortest_cycle) {
    const struct { int layers; const char *given, *expected; } cases[] = {
        { 4, "S,M128:8", "S256,M128:8" },          { 4, "S256,M128:8,S256,M128:8", "S256,M128:8" },
        { 6, "D,D,D", "D" },                       { 3, "S,D", "S256,D" },
        { 4, "S,S,S,D", "S256,S256,S256,D" },      { 1, "S", "S256" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        LayerSpec spec[8], again[8];
        Error err = {0};
        CHECK(pattern_parse(spec, cases[i].layers, cases[i].given, &err), "refused: %s", err.text);
        char* text = pattern_text(spec, cases[i].layers);
        CHECK_TEXT(text, cases[i].expected);
        CHECK(pattern_parse(again, cases[i].layers, text, &err), "its own text is refused: %s", err.text);
        for (int l = 0; l < cases[i].layers; l++) { check_layer(again[l], spec[l].kind, spec[l].window, spec[l].block, spec[l].topk); }
        free(text);
    }
}

TEST_MAIN()
