// The JSON writer and reader: what is written reads back, what is not JSON is refused.
#include "json.h"
#include "test.h"

static JsonValue parsed(const char* text) {
    JsonValue value;
    Error err = {0};
    CHECK(json_parse(&value, text, strlen(text), &err), "'%s' refused: %s", text, err.text);
    return value;
}

TEST(json_writes_a_record_with_nine_digits) {
    Json json = json_begin();
    json_put_text(&json, "kind", "step");
    json_put_int(&json, "step", -9223372036854775807 - 1);
    json_put_real(&json, "loss", 3.21f);
    json_put_exact(&json, "lr", 0.1);
    json_put_real(&json, "norm", NAN);
    json_put_bool(&json, "on", true);
    json_put_raw(&json, "options", "{}");
    char* text = json_end(&json);
    CHECK_TEXT(text, "{\"kind\":\"step\",\"step\":-9223372036854775808,\"loss\":3.21000004,\"lr\":0.10000000000000001,"
                     "\"norm\":null,\"on\":true,\"options\":{}}");
    free(text);
}

TEST(json_text_of_any_bytes_reads_back) {
    const char* texts[] = { "", "plain", "\"\\/\b\f\n\r\t\x01\x7f", "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80", "\xff\xfe", "\xc3", "\xc3(",
                            "\xed\xa0\x80", "\xed\xb3\xbf", "\xe0\x80\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "a\xf0\x9f\x98" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        Json json = json_begin();
        json_put_text(&json, "t", texts[i]);
        char* text = json_end(&json);
        JsonValue value;
        CHECK(json_member(parsed(text), "t", &value), "no member in %s", text);
        char* back = json_get_text(value);
        CHECK(back && strcmp(back, texts[i]) == 0, "text %zu came back as '%s' from %s", i, back ? back : "(null)", text);
        free(back);
        free(text);
    }
}

TEST(json_of_random_bytes_reads_back) {
    uint64_t state = 7;
    for (int round = 0; round < 2000; round++) {
        char bytes[24] = {0};
        int length = (int)(test_bits(&state) % 23);
        for (int i = 0; i < length; i++) {
            do { bytes[i] = (char)(test_bits(&state) % 3 ? test_bits(&state) : 0xe0 + test_bits(&state) % 32); } while (bytes[i] == 0);
        }
        Json json = json_begin();
        json_put_text(&json, bytes, bytes);
        char* text = json_end(&json);
        size_t place = 0;
        JsonValue key, value;
        CHECK(json_next(parsed(text), &place, &key, &value), "round %d: no member in %s", round, text);
        char *name = json_get_text(key), *back = json_get_text(value);
        CHECK(name && back && strcmp(name, bytes) == 0 && strcmp(back, bytes) == 0, "round %d: %s does not read back", round, text);
        free(name); free(back); free(text);
    }
}

TEST(json_reads_a_sidecar) {
    JsonValue root = parsed(" { \"bytes\" : 1200, \"words\":34 ,\"join\":\"\\n\\u00e9\\ud83d\\ude00\", \"offsets\":[0, 10,\n 1099511627776 ], \"x\":{\"words\":1} } \n");
    JsonValue value, item;
    int64_t number = 0;
    CHECK(json_kind(root) == '{' && json_member(root, "words", &value) && json_get_int(value, &number), "words are not found");
    CHECK_EQ(number, 34);
    CHECK(json_member(root, "join", &value), "join is not found");
    char* join = json_get_text(value);
    CHECK_TEXT(join, "\n\xc3\xa9\xf0\x9f\x98\x80");
    free(join);
    CHECK(json_member(root, "offsets", &value) && json_kind(value) == '[', "offsets are not found");
    const int64_t expected[] = { 0, 10, 1099511627776 };
    size_t place = 0;
    int count = 0;
    while (json_next(value, &place, NULL, &item)) {
        CHECK(count < 3 && json_get_int(item, &number), "item %d is not a number", count);
        CHECK_EQ(number, expected[count++]);
    }
    CHECK_EQ(count, 3);
    CHECK(!json_member(root, "offset", &value), "a key that is not there was found");
    CHECK(!json_member(parsed("[\"x\", 1]"), "x", &value), "a member of an array was found");
}

TEST(json_walks_empty_and_nested_groups) {
    JsonValue value, key;
    size_t place = 0;
    CHECK(!json_next(parsed("{}"), &place, &key, &value), "an empty object has a member");
    place = 0;
    CHECK(!json_next(parsed("[ ]"), &place, NULL, &value), "an empty array has an item");
    JsonValue nested = parsed("[[],{},[1,[2]],\"]\",{\"a\":[{}]}]");
    const char kinds[] = "[{[\"{";
    int count = 0;
    place = 0;
    while (json_next(nested, &place, NULL, &value)) {
        CHECK(count < 5 && json_kind(value) == kinds[count], "item %d has kind %c", count, json_kind(value));
        count++;
    }
    CHECK_EQ(count, 5);
}

TEST(json_refuses_what_is_not_json) {
    const char* bad[] = { "", " ", "{", "}", "{]", "[1,]", "[,1]", "[1 2]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{'a':1}", "{\"a\":1}x", "nan", "NaN",
                          "inf", "01", "-", "+1", "1.", ".5", "1e", "1e+", "0x10", "tru", "truee", "\"", "\"a", "\"\\x\"", "\"\\u12g4\"", "\"\\u12", "\"\n\"",
                          "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", "{\"kind\":\"step\",\"step\":12" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        JsonValue value;
        Error err = {0};
        CHECK(!json_parse(&value, bad[i], strlen(bad[i]), &err), "'%s' was accepted", bad[i]);
        CHECK_EQ(err.code, EXIT_DATA);
    }
}

TEST(json_numbers_keep_to_their_kind) {
    int64_t whole;
    double real;
    bool flag;
    CHECK(json_get_int(parsed("9223372036854775807"), &whole) && whole == INT64_MAX, "the largest whole number is lost");
    CHECK(!json_get_int(parsed("9223372036854775808"), &whole), "2^63 was taken for a whole number");
    CHECK(!json_get_int(parsed("1.0"), &whole) && !json_get_int(parsed("1e3"), &whole) && !json_get_int(parsed("\"1\""), &whole), "not a whole number");
    CHECK(json_get_real(parsed("-1.5e-3"), &real) && real == -1.5e-3, "-1.5e-3 is %g", real);
    CHECK(!json_get_real(parsed("1e999"), &real) && !json_get_real(parsed("null"), &real), "no finite number, but taken for one");
    CHECK(json_get_bool(parsed("false"), &flag) && !flag && !json_get_bool(parsed("0"), &flag), "flags are true and false alone");
    CHECK(json_get_text(parsed("\"a\\u0000b\"")) == NULL, "a text with a zero byte was returned");
}

TEST_MAIN()
