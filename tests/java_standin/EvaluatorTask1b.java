package evaluation;

import evaluation.JsonReader.Kind;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * A stand-in for the organizers' program in our tests, written from what that program does in phase
 * B under the rules of edition 5: same class name, command line and line of figures, and it stops
 * on the same files. It computes the figures of factoid questions only; those of other types are
 * printed as 0.0. The organizers' program is not part of the kit.
 *
 * <p>One difference is intended: on text that is not JSON the program at times goes on silently
 * with half a list. The stand-in always logs an error and goes on with half a file.
 */
public class EvaluatorTask1b {
    /** Null and 0 where the file does not have the field, or has a type of another spelling. */
    private static class Question {
        String id;
        int type;
        Answer answer;
    }

    private static class Answer {
        String word; // of a yes/no question: "yes", "no" or "none"
        List<List<String>> lists = new ArrayList<>();

        boolean has(String text) {
            return lists.stream().anyMatch(synonyms -> synonyms.contains(text));
        }
    }

    private static final List<String> TYPES =
            Arrays.asList("", "factoid", "yesno", "summary", "list");

    public static void main(String[] args) {
        // The options are known by name, the files by their place.
        if (!args[0].equals("-phaseB") || !args[1].equals("-e") || !args[2].equals("5")) {
            System.out.println("Usage: -phaseX [-e version] goldenfile systemfile [-verbose]");
            return;
        }
        List<Question> golds = new ArrayList<>(), system = new ArrayList<>();
        try {
            read(args[3], true, golds);
            read(args[4], false, system);
        } catch (IOException error) { // logged, and then it goes on with what was read
            Logger.getLogger(EvaluatorTask1b.class.getName()).log(Level.SEVERE, null, error);
        }
        double n = 0, strict = 0, lenient = 0, reciprocal = 0;
        for (Question gold : golds) {
            Question response = null;
            for (Question candidate : system) {
                if (response == null && candidate.id.equals(gold.id)) {
                    response = candidate;
                }
            }
            if (response == null) {
                continue; // an unanswered question is left out of the means
            }
            if (TYPES.get(gold.type).equals("factoid")) {
                int hit = rank(gold.answer, response.answer);
                n++;
                strict += hit == 1 ? 1 : 0;
                lenient += hit > 0 ? 1 : 0;
                reciprocal += hit > 0 ? 1.0 / hit : 0;
            } else if (TYPES.get(gold.type).equals("list")) {
                rank(gold.answer, response.answer); // stops where the program stops
            } else if (TYPES.get(gold.type).equals("yesno")) {
                if (response.answer != null && !response.answer.word.isEmpty()) {
                    gold.answer.word.length();
                }
                gold.answer.word.length(); // a missing word stops the program
            }
        }
        n = n == 0 ? 1 : n;
        System.out.print("0.0 " + strict / n + " " + lenient / n + " " + reciprocal / n
                + " 0.0 0.0 0.0 0.0 0.0 0.0");
    }

    /** Rank from 1 of the first right answer, 0 if there is none. */
    private static int rank(Answer gold, Answer response) {
        if (response == null) {
            return 0;
        }
        for (int i = 0; i < response.lists.size(); i++) {
            if (gold.has(response.lists.get(i).get(0))) {
                return i + 1;
            }
        }
        return 0;
    }

    private static void read(String file, boolean isGold, List<Question> questions)
            throws IOException {
        JsonReader json = new JsonReader(file);
        json.begin(Kind.OBJECT);
        while (json.hasNext()) {
            if (!json.nextName().equals("questions")) {
                json.skipValue();
                continue;
            }
            json.begin(Kind.ARRAY);
            while (json.hasNext()) {
                questions.add(question(json, isGold));
            }
            json.end(Kind.END_ARRAY);
        }
        json.end(Kind.END_OBJECT);
    }

    private static Question question(JsonReader json, boolean isGold) throws IOException {
        Question question = new Question();
        json.begin(Kind.OBJECT);
        while (json.hasNext()) {
            switch (json.nextName()) {
                case "id":
                    question.id = json.nextString();
                    break;
                case "type":
                    int known = TYPES.indexOf(json.nextString());
                    question.type = known > 0 ? known : question.type;
                    break;
                case "body":
                    json.nextString();
                    break;
                case "concepts":
                case "documents":
                    strings(json);
                    break;
                case "triples":
                    objects(json, "s?o?p");
                    break;
                case "snippets":
                    objects(json, "document text beginSection endSection "
                            + "offsetInBeginSection offsetInEndSection");
                    break;
                case "exact_answer":
                    answer(json, isGold, question);
                    break;
                default:
                    json.skipValue();
            }
        }
        json.end(Kind.END_OBJECT);
        return question;
    }

    private static void answer(JsonReader json, boolean isGold, Question question)
            throws IOException {
        Answer answer = new Answer();
        if (json.peek() == Kind.STRING) {
            String text = json.nextString().toLowerCase();
            answer.word = text.contains("yes") ? "yes" : text.contains("no") ? "no" : "none";
        } else if (json.peek() == Kind.ARRAY) {
            json.begin(Kind.ARRAY);
            Kind inner = json.peek(); // of a value of another kind it reads nothing, and stops
            while ((inner == Kind.ARRAY || inner == Kind.STRING) && json.hasNext()) {
                List<String> synonyms = strings(json);
                if (!synonyms.isEmpty()) {
                    answer.lists.add(isGold ? synonyms : synonyms.subList(0, 1));
                }
            }
            json.end(Kind.END_ARRAY);
        } else {
            return; // the value is still there, so that the next name is not found
        }
        question.answer = answer;
    }

    private static List<String> strings(JsonReader json) throws IOException {
        List<String> texts = new ArrayList<>();
        json.begin(Kind.ARRAY);
        while (json.hasNext()) {
            texts.add(json.nextString().toLowerCase());
        }
        json.end(Kind.END_ARRAY);
        return texts;
    }

    /** Objects with known fields; of a triple, other fields are skipped and two may be null. */
    private static void objects(JsonReader json, String fields) throws IOException {
        boolean triple = fields.equals("s?o?p");
        json.begin(Kind.ARRAY);
        while (json.hasNext()) {
            json.begin(Kind.OBJECT);
            while (json.hasNext()) {
                String name = json.nextName();
                boolean known = Arrays.asList(fields.split("[ ?]")).contains(name);
                if (triple && (!known || json.peek() == Kind.NULL && !name.equals("p"))) {
                    json.skipValue();
                } else if (known && name.startsWith("offset")) {
                    json.nextInt();
                } else if (known) {
                    json.nextString();
                } // an unknown field of a snippet is not skipped, so that the next name is not found
            }
            json.end(Kind.END_OBJECT);
        }
        json.end(Kind.END_ARRAY);
    }
}
