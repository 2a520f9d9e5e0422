package evaluation;

import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.io.Reader;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A stand-in for the organisers' program in our tests, written from its documented behaviour: same
 * class name, same command line, same line of figures, and the same ways of failing. It knows
 * factoid questions only. The organisers' program itself is not part of the kit.
 */
public class EvaluatorTask1b {
    private final Reader in;
    private int next;

    private EvaluatorTask1b(String file) throws Exception {
        in = new InputStreamReader(new FileInputStream(file)); // in the machine's own encoding
        next = in.read();
    }

    public static void main(String[] args) throws Exception {
        // The options are known by name, the files by their place.
        if (!args[0].equals("-phaseB") || !args[1].equals("-e") || !args[2].equals("5")) {
            System.out.println("Usage: -phaseX [-e version] goldenfile systemfile [-verbose]");
            return;
        }
        Map<String, List<List<String>>> gold = new EvaluatorTask1b(args[3]).questions();
        Map<String, List<List<String>>> system = new EvaluatorTask1b(args[4]).questions();
        double strict = 0, lenient = 0, reciprocal = 0;
        for (String id : gold.keySet()) {
            List<List<String>> ranked = system.get(id); // absent: the loop below throws
            int rank = 0, hit = 0;
            for (List<String> answer : ranked) {
                if (answer.isEmpty()) {
                    continue;
                }
                rank++;
                for (List<String> synonyms : gold.get(id)) {
                    if (hit == 0 && synonyms.contains(answer.get(0))) {
                        hit = rank;
                    }
                }
            }
            strict += hit == 1 ? 1 : 0;
            lenient += hit > 0 ? 1 : 0;
            reciprocal += hit > 0 ? 1.0 / hit : 0;
        }
        int n = gold.size();
        System.out.print("0.0 " + strict / n + " " + lenient / n + " " + reciprocal / n
                + " 0.0 0.0 0.0 0.0 0.0 0.0");
    }

    /** Reads {"questions": [{"id", "type", "exact_answer"}]}; anything else is refused. */
    private Map<String, List<List<String>>> questions() throws Exception {
        Map<String, List<List<String>>> found = new LinkedHashMap<>();
        expect('{');
        if (!string().equals("questions")) {
            throw new IllegalStateException("Expected questions");
        }
        expect(':');
        expect('[');
        while (peek() != ']') {
            String id = null;
            List<List<String>> answer = null;
            expect('{');
            while (peek() != '}') {
                String name = string();
                expect(':');
                if (name.equals("id")) {
                    id = string();
                } else if (name.equals("exact_answer")) {
                    answer = new ArrayList<>();
                    expect('[');
                    while (peek() != ']') {
                        List<String> synonyms = new ArrayList<>();
                        expect('[');
                        while (peek() != ']') {
                            synonyms.add(string().toLowerCase());
                            skip(',');
                        }
                        expect(']');
                        answer.add(synonyms);
                        skip(',');
                    }
                    expect(']');
                } else {
                    string();
                }
                skip(',');
            }
            expect('}');
            skip(',');
            found.put(id, answer);
        }
        return found;
    }

    private int peek() throws Exception {
        while (Character.isWhitespace(next)) {
            next = in.read();
        }
        return next;
    }

    private void skip(char wanted) throws Exception {
        if (peek() == wanted) {
            next = in.read();
        }
    }

    private void expect(char wanted) throws Exception {
        if (peek() != wanted) {
            throw new IllegalStateException("Expected " + wanted + " but was " + (char) next);
        }
        next = in.read();
    }

    private String string() throws Exception {
        StringBuilder text = new StringBuilder();
        expect('"');
        while (next != '"') {
            if (next == '\\') {
                next = in.read();
                if (next == 'u') {
                    char[] digits = new char[4];
                    for (int i = 0; i < 4; i++) {
                        digits[i] = (char) in.read();
                    }
                    next = Integer.parseInt(new String(digits), 16);
                } else if (next != '"' && next != '\\') {
                    next = next == 'n' ? '\n' : next == 't' ? '\t' : next;
                }
            }
            text.append((char) next);
            next = in.read();
        }
        next = in.read();
        return text.toString();
    }
}
